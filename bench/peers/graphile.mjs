// graphile-worker: with its batching on (`--batched`: a local queue, completions gathered), and
// without. The same words as the Python peers'; see measures.py.

import { makeWorkerUtils, run, runMigrations } from "graphile-worker";
import pg from "pg";

const [word, ...rest] = process.argv.slice(2);
const options = {};
for (let i = 0; i < rest.length; i += 2) options[rest[i].slice(2)] = Number(rest[i + 1]);
const connectionString = process.env.BENCH_DSN;
const seen = { done: 0, first: 0, last: 0, latencies: [] };
const FILL = 1000;

const pool = new pg.Pool({ connectionString, max: 32 });
pool.on("error", () => {});

const taskList = {
  bench: async (payload) => {
    const now = Date.now();
    seen.first ||= now;
    seen.last = now;
    seen.done += 1;
    if (payload.sentAt) {
      seen.latencies.push(performance.timeOrigin + performance.now() - payload.sentAt);
    }
  },
};

const silent = { scope: () => silent };
for (const level of ["error", "warn", "info", "debug"]) silent[level] = () => {};

async function start(batch, isBatched) {
  const worker = { concurrentJobs: isBatched ? 24 : batch, maxPoolSize: 26, pollInterval: 2000 };
  if (isBatched) {
    worker.localQueue = { size: 500 };
    worker.completeJobBatchDelay = 0;
    worker.failJobBatchDelay = 0;
  }
  return run({ pgPool: pool, noHandleSignals: true, logger: silent, preset: { worker }, taskList });
}

async function left() {
  const { rows } = await pool.query("SELECT count(*)::int AS n FROM graphile_worker._private_jobs");
  return rows[0].n;
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function drain() {
  const runner = await start(options.batch, options.batched);
  while (seen.done < options.jobs) await pause(5);
  await runner.stop();
  if (seen.done !== options.jobs || (await left())) throw new Error(`${seen.done} jobs ran`);
  return { jobs: seen.done, seconds: (seen.last - seen.first) / 1000 };
}

async function consume() {
  await start(options.batch, options.batched);
  console.log("ready");
  const counts = [];
  for (let second = 0; second < Math.round(options.seconds); second += 1) {
    await pause(1000);
    counts.push(seen.done);
  }
  return { counts };
}

async function create() {
  const utils = await makeWorkerUtils({ pgPool: pool });
  const begun = performance.now();
  const deadline = begun + options.seconds * 1000;
  let done = 0;
  const caller = async () => {
    while (performance.now() < deadline) {
      await utils.addJob("bench", {});
      done += 1;
    }
  };
  await Promise.all(Array.from({ length: options.batch }, caller));
  return { jobs: done, seconds: (performance.now() - begun) / 1000 };
}

async function listen() {
  await start(10, false);
  await pause(1000);
  console.log("ready");
  while (seen.done < options.jobs) await pause(20);
  return { latencies_ms: seen.latencies };
}

async function send() {
  const utils = await makeWorkerUtils({ pgPool: pool });
  const begun = performance.now();
  for (let number = 0; number < options.jobs; number += 1) {
    await pause(Math.max(0, begun + (number * 1000) / options.rate - performance.now()));
    await utils.addJob("bench", { sentAt: performance.timeOrigin + performance.now() });
  }
  return { jobs: options.jobs };
}

async function fill() {
  const utils = await makeWorkerUtils({ pgPool: pool });
  for (let done = 0; done < options.jobs; done += FILL) {
    const count = Math.min(FILL, options.jobs - done);
    await utils.addJobs(Array.from({ length: count }, () => ({ identifier: "bench", payload: {} })));
  }
  return { jobs: options.jobs };
}

async function install() {
  await runMigrations({ pgPool: pool, logger: silent });
  return {};
}

const words = { install, fill, drain, consume, create, listen, send };
console.log(JSON.stringify(await words[word]()));
process.exit(0);
