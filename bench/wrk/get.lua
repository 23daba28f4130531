-- Reads: the paths of a file, one a line, in turn.
-- Arguments: the file.
dofile(os.getenv("BENCH_COMMON"))

function init(args)
  address(wrk.headers)
  requests, turn = {}, number
  for path in io.lines(args[1]) do
    requests[#requests + 1] = wrk.format("GET", path)
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end
