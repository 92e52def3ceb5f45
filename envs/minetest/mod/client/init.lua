-- Marks the frame in which a step of the server is certainly visible.
--
-- A HUD of the server's travels on another channel than a movement of the camera. So the server sends a message after
-- the movement, on the same ordered channel, and this mod draws the marker itself, in the frame that follows.
--
-- The marker is a colour, one of 64, in a strip above and one below the picture: a picture that is copied from top to
-- bottom is whole when both strips show it. Messages of the server: "away" (the camera was sent away; say when you have
-- it) and "<number> <share of the dig, 0 to 100> <frames to wait first>".

local channel, bar, strips
local waiting, away

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

minetest.register_on_modchannel_message(function(name, sender, message)
  if name ~= "dreamenv" or sender ~= "" then return end
  if message == "away" then
    away = true
    return
  end
  local number, dug, frames = message:match("^(%d+) (%d+) (%d+)$")
  if number then waiting = {number = tonumber(number), dug = tonumber(dug), frames = tonumber(frames)} end
end)

minetest.register_globalstep(function()
  local player = minetest.localplayer
  if not player then return end
  if not channel then
    channel = minetest.mod_channel_join("dreamenv")
  elseif not strips then
    if channel:is_writeable() then
      add_strips(player)
      channel:send_all("ready")
    end
  elseif away then -- only now, so that what the server answers cannot arrive within the same frame
    away = false
    channel:send_all("away")
  elseif waiting then
    if waiting.frames > 0 then
      waiting.frames = waiting.frames - 1
      return
    end
    for _, strip in ipairs(strips) do player:hud_change(strip, "text", paint(waiting.number)) end
    player:hud_change(bar, "text", waiting.dug > 0 and "dreamenv_white.png^[multiply:#ffe000" or "")
    player:hud_change(bar, "scale", {x = -math.max(1, 0.4 * waiting.dug), y = -2.5})
    waiting = nil
    channel:send_all("drawn") -- wakes the server, which else sleeps up to 30 ms for a packet
  end
end)

minetest.register_on_receiving_chat_message(function() return true end) -- no text over the picture
