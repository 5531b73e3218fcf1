-- wrk: POST one file again and again; the last line is JSON.
local path, kind
function init(args)
  path, kind = args[1], args[2]
  local file = assert(io.open(path, "rb"))
  wrk.method, wrk.body = "POST", file:read("*all")
  wrk.headers["Content-Type"] = kind
  file:close()
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %.3f, "p50": %.3f, "p99": %.3f, "wrong": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
