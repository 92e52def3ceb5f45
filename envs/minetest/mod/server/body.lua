-- The agent's body: an invisible entity with weight, moved by the engine's own physics; the player's camera rides on it.
--
-- A player cannot be driven from the server, and a client moves its player by the wall clock. An entity is moved by the
-- server, with the engine's collisions, steps and gravity, once per server step of whatever length `dtime`. To make a
-- step last STEP of the world's time exactly, velocity is multiplied by STEP / dtime and gravity by its square: the
-- engine then covers the same way whatever dtime is. Positions lie on a grid of 1/64 node, which the lengths of all
-- steps, the body's box and the nodes' faces share, so that the rounding of floats never adds up.

local body = {}

local STEP = 0.1 -- seconds of the world's time per native step
local GRID = 64
local SPEED = 4.0 -- nodes per second, the engine's walking speed
local GRAVITY = 18.75 -- the engine's for players is 2 x 9.81; this one keeps falls on the grid: 12/64 node per step
local JUMP = 7.5 -- rises 1.125 nodes: over one node, not two
local FALL = 15.0 -- nodes per second at most
local HALF, HEIGHT, EYE = 0.3125, 1.75, 1.625

local FASTEST = 480.0 -- nodes per second: the engine cuts what is faster than 500

body.LONGEST = 0.4 -- seconds of dtime in which the engine moves exactly
body.HEIGHT, body.EYE = HEIGHT, EYE

local function snap(value) return math.floor(value * GRID + 0.5) / GRID end

local entity -- the one body
local state -- pos, velocity, yaw, pitch in degrees, grounded
local moved -- called when the engine has moved the body

minetest.register_entity("dreamenv:body", {
  initial_properties = {
    physical = true, collide_with_objects = false, pointable = false, is_visible = false, static_save = false,
    collisionbox = {-HALF, 0, -HALF, HALF, HEIGHT, HALF}, stepheight = 0.6,
  },
  on_step = function(self, _, moveresult)
    if self.object == entity and self.ratio then
      local pos, velocity = entity:get_pos(), entity:get_velocity()
      state.pos = {x = snap(pos.x), y = snap(pos.y), z = snap(pos.z)}
      state.velocity = snap(velocity.y / self.ratio)
      state.grounded = moveresult.touching_ground
      self.ratio = nil
      entity:set_velocity({x = 0, y = 0, z = 0})
      entity:set_acceleration({x = 0, y = 0, z = 0})
      moved()
    end
  end,
})

function body.place(pos, yaw, pitch)
  body.remove()
  state = {pos = {x = snap(pos.x), y = snap(pos.y), z = snap(pos.z)}, velocity = 0, yaw = yaw, pitch = pitch,
    grounded = true}
  entity = minetest.add_entity(state.pos, "dreamenv:body")
  return entity ~= nil
end

function body.remove()
  if entity then entity:remove() end
  entity = nil
end

function body.state() return state end

-- The vertical velocity with which a step begins.
local function rising(action)
  return math.max(action.jump > 0 and state.grounded and JUMP or state.velocity, GRAVITY * STEP - FALL)
end

-- Lets the engine move the body for one native step; `edge` is {centre, radius}, the world's end.
function body.push(dtime, action, edge, on_moved)
  if not entity:get_pos() then error("the body left the active part of the world") end
  moved = on_moved
  state.yaw, state.pitch = body.turned(action), body.tilted(action)
  local heading = math.rad(state.yaw)
  local dx = snap(-math.sin(heading) * SPEED * STEP * action.forward)
  local dz = snap(math.cos(heading) * SPEED * STEP * action.forward)
  if edge then
    if math.abs(state.pos.x + dx - edge.x) > edge.radius then dx = 0 end
    if math.abs(state.pos.z + dz - edge.z) > edge.radius then dz = 0 end
  end
  local vy = rising(action)
  local ratio = STEP / dtime
  entity:set_pos(state.pos)
  entity:set_velocity({x = dx / STEP * ratio, y = vy * ratio, z = dz / STEP * ratio})
  entity:set_acceleration({x = 0, y = -GRAVITY * ratio * ratio, z = 0})
  entity:get_luaentity().ratio = ratio
end

-- The shortest dtime, in seconds, in which the engine moves the body that far: it cuts what is too fast.
function body.shortest(action)
  local vertical = math.abs(rising(action)) + GRAVITY * STEP
  return math.max(SPEED * math.abs(action.forward), vertical) * STEP / FASTEST
end

-- The eye and the direction of the view.
function body.view()
  local yaw, pitch = math.rad(state.yaw), math.rad(state.pitch)
  local eye = {x = state.pos.x, y = state.pos.y + EYE, z = state.pos.z}
  return eye, {x = -math.sin(yaw) * math.cos(pitch), y = -math.sin(pitch), z = math.cos(yaw) * math.cos(pitch)}
end

-- Where an action turns the view, in degrees.
function body.turned(action) return (state.yaw + action.turn) % 360 end

function body.tilted(action) return math.max(-80, math.min(80, state.pitch + action.look)) end

return body
