-- The link to Python: lines of JSON over a Unix socket. Blocking on it is what steps the server in lock-step.

local link = {}

local insecure = ...
insecure.package.cpath = minetest.settings:get("dreamenv_cpath") .. ";" .. insecure.package.cpath
local unix = insecure.require("socket.unix")
local socket = unix.stream and unix.stream() or unix()
assert(socket:connect(minetest.settings:get("dreamenv_socket")))

-- Waits for a command; Python's end ends the server.
function link.receive()
  socket:settimeout(nil)
  local line = socket:receive("*l")
  if not line then
    minetest.request_shutdown()
    return nil
  end
  return minetest.parse_json(line)
end

function link.send(message)
  socket:send(minetest.write_json(message) .. "\n")
end

return link
