-- Creates: one job a request, its project drawn from a range of numbers.
-- Arguments: path up to the project's number, first number, how many.
dofile(os.getenv("BENCH_COMMON"))

function init(args)
  address(wrk.headers)
  wrk.headers["Content-Type"] = "application/json"
  path, first, many = args[1], tonumber(args[2]), tonumber(args[3])
  body = '{"incr_scan": true, "created_from": "bench"}'
  math.randomseed(os.time() + number)
end

function request()
  local project = first + math.random(0, many - 1)
  return wrk.format("POST", path .. project .. "/scans/create/", nil, body)
end
