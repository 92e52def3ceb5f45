-- Marks the first frame that shows a step of the server.
--
-- A HUD of the server is sent on another channel than the camera's movement. So the server sends a message after the
-- movement, on the same ordered channel, and this mod draws the marker itself, in the next frame.
--
-- The marker is a colour, one of 64, in a strip above and one below the picture: a picture that is copied from top to
-- bottom is whole when both strips show it. When the view has changed since, the upper strip shows the number 32 further.
-- Messages of the server: "away" (the camera was sent away; confirm when it
-- is there), "quiet" (send nothing for some frames) and "<number> <progress of the dig, 0 to 100> <frames to wait first>
-- <yaw> <pitch>", the last two only where a view is shown. The answer is "drawn", or "again" if this frame does not show
-- that view completely. A frame without an answer sends "tick", since the server sleeps up to 30 ms for a packet.

local channel, bar, strips
local waiting, away
local quiet = 0 -- frames in which no tick is sent
local drawn -- the number that both strips show

local function paint(number)
  local level = function(bits) return 85 * (math.floor(bits) % 4) end
  return string.format("dreamenv_white.png^[multiply:#%02x%02x%02x", level(number), level(number / 4), level(number / 16))
end

local function image(player, position, alignment, scale)
  return player:hud_add({hud_elem_type = "image", name = "dreamenv", text = "", number = 0, item = 0, direction = 0,
    position = position, alignment = alignment, offset = {x = 0, y = 0}, scale = scale, size = {x = 0, y = 0}})
end

local function add_strips(player)
  local share = tonumber(minetest.settings:get("dreamenv_strip")) -- of the screen's height, in percent
  strips = {image(player, {x = 0, y = 0}, {x = 1, y = 1}, {x = -100, y = -share}),
    image(player, {x = 0, y = 1}, {x = 1, y = -1}, {x = -100, y = -share})}
  bar = image(player, {x = 0.5, y = 0.82}, {x = 0, y = 0}, {x = -1, y = -2.5})
end

-- Packets of one movement may arrive in different frames. Then the camera may not be turned yet; or it comes to its place
-- from nearby instead of from afar, so that newly visible blocks are missing.
local FAR = 32 -- nodes of height; the server sends the camera 64 nodes up
local view -- of this frame: pos, yaw, pitch
local whole -- whether the camera came to this view from afar

local function turned(from, to) return math.abs((to - from + 180) % 360 - 180) end

local function watch(player)
  local now = {pos = player:get_pos(), yaw = math.deg(minetest.camera:get_look_horizontal()) - 90,
    pitch = -math.deg(minetest.camera:get_look_vertical())}
  local far = view and math.abs(now.pos.y - view.pos.y) > FAR
  local same = view and vector.distance(now.pos, view.pos) < 0.01 and turned(view.yaw, now.yaw) < 0.1
    and turned(view.pitch, now.pitch) < 0.1
  whole = far or (whole and same)
  view = now
  if drawn and not same then
    player:hud_change(strips[1], "text", paint((drawn + 32) % 64))
    drawn = nil
  end
end

local function shows(order)
  return not order.yaw
    or whole and turned(view.yaw, order.yaw) < 0.1 and turned(view.pitch, order.pitch) < 0.1
end

minetest.register_on_modchannel_message(function(name, sender, message)
  if name ~= "dreamenv" or sender ~= "" then return end
  if message == "away" then
    away = true
    return
  end
  if message == "quiet" then
    quiet = 3 -- frames: after so long, the time since the server's last step suffices for any movement
    return
  end
  local number, dug, frames, yaw, pitch = message:match("^(%d+) (%d+) (%d+) ?(%S*) ?(%S*)$")
  if number then
    waiting = {number = tonumber(number), dug = tonumber(dug), frames = tonumber(frames), yaw = tonumber(yaw),
      pitch = tonumber(pitch)}
  end
end)

-- Returns this frame's message to the server, if any.
local function word(player)
  if away then -- only now, so that what the server answers cannot arrive within the same frame
    away = false
    return "away"
  end
  if not waiting then return end
  if waiting.frames > 0 then
    waiting.frames = waiting.frames - 1
    return
  end
  local order = waiting
  waiting = nil
  if not shows(order) then return "again" end
  drawn = order.number
  for _, strip in ipairs(strips) do player:hud_change(strip, "text", paint(drawn)) end
  player:hud_change(bar, "text", order.dug > 0 and "dreamenv_white.png^[multiply:#ffe000" or "")
  player:hud_change(bar, "scale", {x = -math.max(1, 0.4 * order.dug), y = -2.5})
  return "drawn"
end

minetest.register_globalstep(function()
  local player = minetest.localplayer
  if not (player and minetest.camera) then return end
  if not channel then
    channel = minetest.mod_channel_join("dreamenv")
  elseif not strips then
    if channel:is_writeable() then
      add_strips(player)
      channel:send_all("ready")
    end
  else
    watch(player)
    if quiet > 0 then quiet = quiet - 1 end
    local said = word(player) or (quiet == 0 and "tick")
    if said then channel:send_all(said) end
  end
end)

minetest.register_on_receiving_chat_message(function() return true end) -- no text over the picture
