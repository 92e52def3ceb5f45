-- The server, in lock-step with Python: every native step waits for a command, moves the body, and sends an answer.
--
-- Commands are lines of JSON: {reset = seed} generates an episode and answers {loaded = true}; Python then watches for
-- the fence (see area.lua) and sends {start = true}; {act = {...}, steps = n} holds an action for n native steps;
-- {again = true} renders the last frame again. An answer has the number of the marker that the client draws into
-- the first frame that shows its state (see the client's mod).

local insecure = minetest.request_insecure_environment()
local path = minetest.get_modpath("dreamenv") .. "/"
local function load(file, ...) return assert(loadfile(path .. file))(...) end

load("still.lua")
load("nodes.lua")
local trees = load("trees.lua")
local link = load("link.lua", insecure)
local body, area, ground = load("body.lua"), load("area.lua"), load("ground.lua")
local hands = load("hands.lua", body)
local terrain = load("tasks/terrain.lua", area, ground)
local kind = minetest.settings:get("dreamenv_task")
local task = load("tasks/" .. kind .. ".lua", kind == "maze" and area or terrain, trees)

local player, channel
local number = 0 -- of the marker
local job -- the command in progress, until its frame is drawn
local episode -- its start: pos, yaw, pitch, edge
local ready = false -- whether the client's mod can draw markers
local picture -- the frame to draw: the message to the client, and the answer to Python

minetest.register_on_joinplayer(function(joined)
  player = joined
  player:hud_set_flags({hotbar = false, healthbar = false, crosshair = false, wielditem = false, breathbar = false,
    minimap = false, basic_debug = false})
  player:set_properties({eye_height = body.EYE, visual_size = {x = 0, y = 0}, pointable = false})
  player:set_physics_override({gravity = 0, speed = 0, jump = 0})
  player:set_sky({type = "plain", base_color = "#78b4f0", clouds = false}) -- a natural one fades, frame by frame
  minetest.set_timeofday(0.5)
  channel = minetest.mod_channel_join("dreamenv")
end)

-- Moves the client's camera; the last of the three calls sends all of it.
local function look(pos, yaw, pitch)
  player:set_look_vertical(math.rad(pitch))
  player:set_look_horizontal(math.rad(yaw))
  player:set_pos(pos)
end

-- The client turns its camera a frame after it has moved it, and looks only now and then for what can be seen. So the
-- camera first goes high above, turned as it shall be; when the client says that it was there, it comes down into
-- another block, for which the client looks at once for what can be seen: that frame is right in every part. The client
-- says "again" when it was not: when packets of one movement came in different frames. Over terrain, the camera rises once
-- a view is drawn: the client draws another frame before it hears of the next step, and the sky costs next to nothing.
local HIGH = 64 -- nodes above: out of sight of the ground
local SETTLE = 4 -- frames

local function rise(state) look({x = state.pos.x, y = state.pos.y + HIGH, z = state.pos.z}, state.yaw, state.pitch) end

local function leave(state)
  rise(state)
  channel:send_all("away")
  job.away = "asked"
end

-- Makes the client draw the frame, and answers Python; no other command is accepted until it is drawn.
local function draw()
  channel:send_all(picture.order)
  if picture.reply then link.send(picture.reply) end
  picture.reply = nil
end

local function arrive()
  local state = body.state()
  look(state.pos, state.yaw, state.pitch)
  draw()
end

-- Numbers an answer and its picture: of `view`, or of whatever the camera sees.
local function prepare(reply, settle, view)
  number = (number + 1) % 64
  reply.number = number
  local order = string.format("%d %d %d", number, math.floor(100 * hands.progress()), settle)
  if view then order = string.format("%s %.3f %.3f", order, view.yaw, view.pitch) end
  picture = {order = order, reply = reply}
end

-- Shows the body's view, where meshes must be made `settle` frames later; Python looks at such a picture for a while.
local function show(reply, settle)
  prepare(reply, settle, body.state())
  picture.rise = settle == 0 and kind ~= "maze"
  if not job.away then leave(body.state()) end
  if job.away == "seen" then arrive() end
end

local heard = {} -- handlers of the messages of the client's mod

function heard.ready() ready = true end

function heard.away()
  job.away = "seen"
  if picture then arrive() end
end

function heard.again() leave(body.state()) end

function heard.drawn()
  if picture.rise then rise(body.state()) end
  job, picture = nil, nil
end

minetest.register_on_modchannel_message(function(name, _, message)
  if name == "dreamenv" and heard[message] then heard[message]() end
end)

local function report(values)
  local state = body.state()
  values.position = {state.pos.x, state.pos.y, state.pos.z}
  values.yaw, values.pitch = state.yaw, state.pitch
  values.info = task.info(state.pos)
  return values
end

local begin = {}

function begin.reset(command)
  job = {kind = "reset"}
  body.remove()
  hands.rest()
  task.begin(command.reset, player, function(started)
    episode = started
    prepare({loaded = true, fence = area.fence}, 0)
    draw()
  end)
end

function begin.start()
  body.place(episode.pos, episode.yaw, episode.pitch)
  task.started(episode.pos)
  area.open(player)
  job = {kind = "start"}
  show(report({}), SETTLE)
end

-- Renders the frame again that Python missed.
function begin.again()
  job = {kind = "again"}
  show({}, 0)
end

function begin.act(command)
  local a = command.act
  job = {kind = "act", steps = command.steps, progress = 0, events = 0, passed = 0, changed = false,
    action = {forward = a[1], jump = a[2], turn = a[3], look = a[4], dig = a[5], place = a[6]}}
end

-- Called by the body when the engine has moved it.
local function moved()
  job.changed = hands.work(player, job.action, task) or job.changed
  local result = task.moved(body.state().pos)
  job.passed = job.passed + 1
  job.progress, job.events = job.progress + result.progress, job.events + result.events
  job.terminated = result.terminated
  if job.passed < job.steps and not result.terminated then return end
  job.action = nil
  local reply = report({progress = job.progress, events = job.events, terminated = job.terminated, passed = job.passed,
    changed = job.changed})
  show(reply, job.changed and SETTLE or 0)
end

minetest.register_globalstep(function(dtime)
  if not (player and ready) then return end
  if not job then
    local command = link.receive()
    if not command then return end
    for name, start in pairs(begin) do
      if command[name] then start(command) end
    end
  end
  local action = job and job.action
  if not action then return end
  if dtime < body.shortest(action) or dtime > body.LONGEST then
    channel:send_all("quiet") -- or the next one would be as short
    return
  end
  if job.passed == job.steps - 1 and action.dig == 0 and action.place == 0 then
    -- while the engine moves the body, the client already sends the camera away
    leave({pos = body.state().pos, yaw = body.turned(action), pitch = body.tilted(action)})
  end
  body.push(dtime, action, episode.edge, moved)
end)
