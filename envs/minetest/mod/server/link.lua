-- The connection to Python: lines of JSON over a Unix socket. The server blocks on it, which keeps it in lock-step.

local link = {}

local insecure = ...
insecure.package.cpath = minetest.settings:get("dreamenv_cpath") .. ";" .. insecure.package.cpath
local unix = insecure.require("socket.unix")
local socket = unix.stream and unix.stream() or unix()
assert(socket:connect(minetest.settings:get("dreamenv_socket")))

-- Waits for a command; shuts the server down when Python has closed the socket.
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
