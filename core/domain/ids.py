"""The types of identifiers, so that a job id is never passed where a task id is meant."""

from __future__ import annotations

from typing import NewType

OrgId = NewType("OrgId", int)
TeamId = NewType("TeamId", int)
RepoId = NewType("RepoId", int)
SchemeId = NewType("SchemeId", int)
ProjectId = NewType("ProjectId", int)
JobId = NewType("JobId", int)
ScanId = NewType("ScanId", int)
TaskId = NewType("TaskId", int)
AttemptId = NewType("AttemptId", int)
WorkerId = NewType("WorkerId", int)
TokenId = NewType("TokenId", int)
