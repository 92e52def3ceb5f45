-- Digging and placing by the engine's rules, at the node within reach under the middle of the view.
--
-- A node breaks after the time that the engine gives for the tool in hand, as long as it is pointed at; placing takes
-- from the second slot of the inventory, every fifth step at most while held.

local body = ...

local hands = {}

local STEP, REACH, PAUSE = 0.1, 4.0, 5
local digging -- {pos, spent, needed} in seconds
local idle = 0 -- steps until the next node may be placed

function hands.rest() digging, idle = nil, 0 end

-- How much of the node in work is dug, from 0 to 1.
function hands.progress() return digging and math.min(1, digging.spent / digging.needed) or 0 end

-- Sends the blocks in which a node changed, and the one above it (flowers fall). The engine would not: it believes that
-- only blocks which it chose to send itself are known to the client. Those it would not send again here, nor tell of the
-- node while the camera is far above; so it may choose none (max_block_send_distance in files.py).
local function send(player, pos)
  for up = 0, 1 do
    player:send_mapblock({x = math.floor(pos.x / 16), y = math.floor((pos.y + up) / 16), z = math.floor(pos.z / 16)})
    if (pos.y + 1) % 16 ~= 0 then return end
  end
end

local function pointed()
  local eye, direction = body.view()
  for thing in minetest.raycast(eye, vector.add(eye, vector.multiply(direction, REACH)), false, false) do
    if thing.type == "node" then return thing end
  end
end

local function seconds(player, node)
  local groups = minetest.registered_nodes[node.name].groups
  for _, tool in ipairs({player:get_wielded_item(), ItemStack("")}) do
    local found = minetest.get_dig_params(groups, tool:get_tool_capabilities())
    if found.diggable then return math.max(found.time, STEP) end
  end
end

local function dig(player, task)
  local thing = pointed()
  if not thing then
    digging = nil
    return false
  end
  local node = minetest.get_node(thing.under)
  if not (digging and vector.equals(digging.pos, thing.under)) then
    local needed = seconds(player, node)
    digging = needed and {pos = thing.under, spent = 0, needed = needed}
    if not digging then return false end
  end
  digging.spent = digging.spent + STEP
  if digging.spent < digging.needed - STEP / 2 then return false end
  digging = nil
  if not minetest.node_dig(thing.under, node, player) then return false end
  if task.dug then task.dug(node) end
  send(player, thing.under)
  return true
end

local function place(player)
  local thing = pointed()
  if idle > 0 or not thing then return false end
  local state = body.state()
  local at = thing.above
  local inside = math.abs(at.x - state.pos.x) < 0.8125 and math.abs(at.z - state.pos.z) < 0.8125
    and at.y > state.pos.y - 0.5 and at.y < state.pos.y + body.HEIGHT + 0.5
  local inventory = player:get_inventory()
  local stack = inventory:get_stack("main", 2)
  if inside or stack:is_empty() then return false end
  local left, placed = minetest.item_place_node(stack, player, thing)
  if not placed then return false end
  inventory:set_stack("main", 2, left)
  idle = PAUSE
  send(player, at)
  return true
end

-- Works for one native step; returns whether the world changed.
function hands.work(player, action, task)
  idle = math.max(0, idle - 1)
  if action.dig > 0 then return dig(player, task) end
  digging = nil
  return action.place > 0 and place(player)
end

return hands
