"""Result codes: the contract's numbers and Chinese texts, an English text beside each.

Classes: 0..99 success, 100..199 server, 200..299 worker, 300..399 user. The table is TCA's;
scripts match on numbers and texts, so neither changes.
"""

from __future__ import annotations

from enum import IntEnum


class ResultCode(IntEnum):
    """The codes Kennel itself closes jobs and tasks with."""

    SUCCESS = 0
    NOTHING_CHANGED = 1
    SUPERSEDED = 2
    SERVER_ERROR = 100
    SCM_UNREACHABLE = 110
    SCM_AUTH = 111
    SCM_NOT_FOUND = 112
    SCM_UNTRUSTED = 113
    SCM_FORBIDDEN = 114
    SCM_REFUSED = 115
    PREPARATION_FAILED = 121
    SAVING_TIMEOUT = 199
    WORKER_LOST = 200
    ENGINE_TIMEOUT = 202
    CHECKOUT_FAILED = 203
    ENGINE_CONFIG = 204
    ENGINE_PARAMETERS = 205
    ENGINE_FAILED = 211
    REPORT_UNREADABLE = 213
    ARTIFACT_UPLOAD = 219
    JOB_TIMEOUT = 297
    SIBLING_FAILED = 299
    CANCELLED = 301
    NO_LANGUAGE_FITS = 311
    NO_ENGINE_ENABLED = 312
    NO_WORKER_FITS = 313


#: code: (Chinese text as the reference server answers it, English text)
TEXTS: dict[int, tuple[str, str]] = {
    0: ("成功", "success"),
    1: ("无需扫描", "nothing to scan"),
    2: ("重定向到其他任务", "superseded by a newer job"),
    100: ("服务异常", "server error"),
    110: ("SCM服务异常", "repository unreachable or too slow"),
    111: ("SCM鉴权失败", "repository refused the credentials"),
    112: ("SCM信息不存在", "repository, branch or commit does not exist"),
    113: ("SCM不被信任", "host key or certificate not trusted"),
    114: ("SCM无权限", "access to the repository is forbidden"),
    115: ("SCM参数错误", "URL, branch or revision refused"),
    116: ("第三方依赖文件服务器异常", "file server error"),
    120: ("任务创建异常", "job could not be created"),
    121: ("任务初始化异常", "preparation failed"),
    122: ("任务迁移导致异常", "job was migrated"),
    199: ("未知服务异常", "saving took too long"),
    200: ("节点未知异常", "worker lost too often"),
    201: ("任务执行异常", "task failed"),
    202: ("任务执行超时", "engine ran over its time"),
    203: ("节点端SCM任务故障", "checkout failed on the worker"),
    204: ("配置错误", "engine configuration refused"),
    205: ("任务参数错误", "engine parameters refused"),
    210: ("编译失败", "build failed"),
    211: ("工具分析错误", "engine failed"),
    212: ("分析结果处理错误", "result could not be processed"),
    213: ("任务Format错误", "report unreadable"),
    214: ("任务Blame错误", "blame failed"),
    215: ("任务Filter错误", "filter failed"),
    216: ("项目资源类错误", "resource of the project missing"),
    217: ("项目资源类错误", "transfer of a resource failed"),
    218: ("节点端与服务器通信错误", "worker could not talk to the server"),
    219: ("文件服务器传输错误", "artifact upload failed"),
    221: ("节点端压缩模块错误", "compression failed"),
    222: ("节点端输入超时", "input timed out"),
    223: ("节点端输入超过重试次数", "input retried too often"),
    224: ("节点端请求错误", "request of the worker failed"),
    225: ("当前版本已经扫描过，无需扫描", "revision was scanned already"),
    226: ("节点端本地扫描错误", "local scan failed"),
    297: ("节点端任务执行超时", "job ran over its time limit"),
    298: ("本地分析任务被中断", "local scan was interrupted"),
    299: ("其他task失败取消", "cancelled because another task failed"),
    300: ("用户取消或配置错误", "cancelled by the user or wrong configuration"),
    301: ("用户取消", "cancelled by a user"),
    302: ("配置错误", "wrong configuration"),
    310: ("扫描方案配置错误", "scan scheme is misconfigured"),
    311: ("扫描方案未配置语言", "no language fits"),
    312: ("扫描方案未启用代码扫描或代码度量", "no engine is enabled"),
    313: ("扫描方案配置的标签或关联节点失效", "no worker fits"),
    320: ("扫描方案的代码扫描配置错误", "lint configuration is wrong"),
    321: ("扫描方案未配置扫描规则", "no rules are configured"),
    330: ("扫描方案的代码度量配置错误", "metric configuration is wrong"),
    340: ("未知使用异常", "user has no OAuth"),
}

_CLASS_TEXTS = {
    1: ("未知服务异常", "unknown server error"),
    2: ("未知节点异常", "unknown worker error"),
    3: ("未知使用异常", "unknown user error"),
}


def is_success(code: int) -> bool:
    """Tell whether *code* is of the success class (0..99)."""
    return 0 <= code <= 99


def text(code: int | None) -> str | None:
    """Return the Chinese text of *code* as `result_code_msg` shows it; None while open."""
    if code is None:
        return None
    return _texts(code)[0]


def english(code: int) -> str:
    """Return the English text of *code*, for logs and the command line."""
    return _texts(code)[1]


def _texts(code: int) -> tuple[str, str]:
    if code in TEXTS:
        return TEXTS[code]
    if is_success(code):
        return TEXTS[0]
    return _CLASS_TEXTS.get(code // 100, ("未知异常", "unknown error"))
