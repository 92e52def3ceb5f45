-- Chop trees with a steel axe: an event for every log. Where few trees grow near the start, some are planted.

local terrain, trees = ...

local treechop = {}

local NEAR, TREES = 12, 5 -- so many trees within so many nodes of the start

local function trunks(start)
  local found = 0
  local low = {x = start.x - NEAR, y = start.y - 6, z = start.z - NEAR}
  local high = {x = start.x + NEAR, y = start.y + 8, z = start.z + NEAR}
  local columns = {}
  for _, pos in ipairs(minetest.find_nodes_in_area(low, high, {"group:tree"})) do
    local key = math.floor(pos.x / 3) .. "," .. math.floor(pos.z / 3)
    if not columns[key] then
      columns[key] = true
      found = found + 1
    end
  end
  return found
end

local function plant(place, start)
  local free = {}
  for _, column in ipairs(place.reached) do
    local way = math.max(math.abs(column.x - start.x), math.abs(column.z - start.z))
    if way >= 4 and way <= NEAR then free[#free + 1] = column end
  end
  local planted = {}
  for _ = 1, 60 do
    if #planted >= TREES or #free == 0 then break end
    local column = free[place.random:next(1, #free)]
    local apart = true
    for _, other in ipairs(planted) do
      apart = apart and math.abs(other.x - column.x) + math.abs(other.z - column.z) >= 5
    end
    if apart then
      planted[#planted + 1] = column
      minetest.place_schematic({x = column.x - 3, y = column.y, z = column.z - 3}, trees.apple, "0", nil, false)
    end
  end
end

local logs

function treechop.begin(seed, player, done)
  terrain.enter(seed, player, function(place)
    local start = place.reached[1]
    if trunks(start) < TREES then plant(place, start) end
    terrain.send(player, place)
    logs = 0
    local inventory = player:get_inventory()
    inventory:set_list("main", {ItemStack("default:axe_steel"), ItemStack("default:dirt 16")})
    done({pos = {x = start.x, y = start.y + 0.5, z = start.z}, yaw = 15 * place.random:next(0, 23), pitch = 0,
      edge = terrain.edge(place)})
  end)
end

function treechop.dug(node)
  if minetest.get_item_group(node.name, "tree") > 0 then logs = logs + 1 end
end

function treechop.info() return {} end

function treechop.moved()
  local gained = logs
  logs = 0
  return {progress = 0, events = gained, terminated = false}
end

function treechop.started() logs = 0 end

return treechop
