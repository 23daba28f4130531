-- What the scripts share: a thread for each api, and the result as one line of JSON.
-- By the environment: BENCH_TOKEN, and BENCH_PORTS with blanks between the ports.

local json_line = 'RESULT {"requests": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, "bad": %d}\n'
local ports = {}
for port in os.getenv("BENCH_PORTS"):gmatch("%d+") do ports[#ports + 1] = port end
local threads = 0

function setup(thread)
  threads = threads + 1
  local port = ports[threads] or ports[1]
  thread.addr = wrk.lookup(wrk.host, port)[1]
  thread:set("port", port)
  thread:set("number", threads)
end

function address(headers)
  headers["Host"] = wrk.host .. ":" .. port
  headers["Authorization"] = "Token " .. os.getenv("BENCH_TOKEN")
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    json_line,
    summary.requests,
    summary.duration / 1e6,
    latency:percentile(50) / 1000,
    latency:percentile(99) / 1000,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout
  ))
end
