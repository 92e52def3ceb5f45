-- Reach the beacon: a glowing pillar, 10 to 22 nodes away, reachable on foot. It is three nodes wide, to be visible in
-- small frames.

local terrain = ...

local navigate = {}

local NEAREST, FARTHEST, TALL = 10, 22, 18
local ARRIVED = 2.6 -- from its middle: in touch with it
local goal, before

function navigate.begin(seed, player, done)
  terrain.enter(seed, player, function(place)
    local start, fit = place.reached[1], {}
    for _, column in ipairs(place.reached) do
      local way = math.sqrt((column.x - start.x) ^ 2 + (column.z - start.z) ^ 2)
      if way >= NEAREST and way <= FARTHEST and column.steps <= 1.6 * FARTHEST then fit[#fit + 1] = column end
    end
    if #fit == 0 then return navigate.begin(seed + 1, player, done) end
    goal = fit[place.random:next(1, #fit)]
    for x = goal.x - 1, goal.x + 1 do
      for z = goal.z - 1, goal.z + 1 do
        for y = goal.y - 2, goal.y + TALL do minetest.set_node({x = x, y = y, z = z}, {name = "dreamenv:beacon"}) end
      end
    end
    terrain.send(player, place)
    before = nil
    done({pos = {x = start.x, y = start.y + 0.5, z = start.z}, yaw = 15 * place.random:next(0, 23), pitch = 0,
      edge = terrain.edge(place)})
  end)
end

local function distance(pos) return math.sqrt((pos.x - goal.x) ^ 2 + (pos.z - goal.z) ^ 2) end

function navigate.info(pos)
  return {distance = distance(pos)}
end

function navigate.moved(pos)
  local now = distance(pos)
  local progress = before and before - now or 0
  before = now
  local arrived = now <= ARRIVED
  return {progress = progress, events = arrived and 1 or 0, terminated = arrived}
end

function navigate.started(pos) before = distance(pos) end

return navigate
