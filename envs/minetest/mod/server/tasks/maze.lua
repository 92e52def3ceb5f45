-- Find the beacon in a maze of corridors two nodes wide, a new one for every seed; each quarter has its own colour.

local area = ...

local maze = {}

local CELLS = 5 -- cells per side
local PITCH = 3 -- a cell is two nodes wide, a wall one
local WALL = 3 -- nodes high
local SIZE = CELLS * PITCH + 1
local ARRIVED = 1.5
local goal, before

-- Depth-first search over the cells: returns open[x][z] of the maze's nodes, 0 to SIZE - 1.
local function carve(random)
  local open = {}
  for x = 0, SIZE - 1 do open[x] = {} end
  local seen, stack = {}, {{random:next(0, CELLS - 1), random:next(0, CELLS - 1)}}
  local function visit(cell)
    seen[cell[1] * CELLS + cell[2]] = true
    for dx = 1, 2 do
      for dz = 1, 2 do open[cell[1] * PITCH + dx][cell[2] * PITCH + dz] = true end
    end
  end
  visit(stack[1])
  while #stack > 0 do
    local here, ways = stack[#stack], {}
    for _, d in ipairs({{1, 0}, {-1, 0}, {0, 1}, {0, -1}}) do
      local x, z = here[1] + d[1], here[2] + d[2]
      if x >= 0 and x < CELLS and z >= 0 and z < CELLS and not seen[x * CELLS + z] then ways[#ways + 1] = d end
    end
    if #ways == 0 then
      stack[#stack] = nil
    else
      local d = ways[random:next(1, #ways)]
      local low_x, low_z = here[1] * PITCH, here[2] * PITCH
      for along = 1, 2 do -- the wall between the two cells
        if d[1] ~= 0 then open[low_x + (d[1] > 0 and PITCH or 0)][low_z + along] = true
        else open[low_x + along][low_z + (d[2] > 0 and PITCH or 0)] = true end
      end
      local next_cell = {here[1] + d[1], here[2] + d[2]}
      visit(next_cell)
      stack[#stack + 1] = next_cell
    end
  end
  return open
end

function maze.begin(seed, player, done)
  local random = PcgRandom(seed)
  area.enter(player, 2080, function(centre) -- the area at the origin; there is nothing but the maze
    local corner = {x = centre.x - 8, y = 8, z = centre.z - 8}
    local high = {x = corner.x + SIZE - 1, y = corner.y + WALL, z = corner.z + SIZE - 1}
    local manip = minetest.get_voxel_manip(corner, high)
    local low_corner, high_corner = manip:get_emerged_area()
    local data, shape = manip:get_data(), VoxelArea:new({MinEdge = low_corner, MaxEdge = high_corner})
    local air, floor = minetest.get_content_id("air"), minetest.get_content_id("dreamenv:floor")
    local open = carve(random)
    for x = 0, SIZE - 1 do
      for z = 0, SIZE - 1 do
        local quarter = 1 + (x < SIZE / 2 and 0 or 1) + (z < SIZE / 2 and 0 or 2)
        local wall = minetest.get_content_id("dreamenv:wall" .. quarter)
        data[shape:index(corner.x + x, corner.y, corner.z + z)] = floor
        for y = 1, WALL do
          data[shape:index(corner.x + x, corner.y + y, corner.z + z)] = open[x][z] and air or wall
        end
      end
    end
    local function middle(cell_x, cell_z)
      return {x = corner.x + cell_x * PITCH + 1.5, y = corner.y, z = corner.z + cell_z * PITCH + 1.5}
    end
    local start_x, start_z = random:next(0, CELLS - 1), random:next(0, CELLS - 1)
    local goal_x, goal_z
    repeat goal_x, goal_z = random:next(0, CELLS - 1), random:next(0, CELLS - 1)
    until math.abs(goal_x - start_x) + math.abs(goal_z - start_z) >= 3
    goal = {x = corner.x + goal_x * PITCH + 1, z = corner.z + goal_z * PITCH + 1}
    local beacon = minetest.get_content_id("dreamenv:beacon")
    for y = 1, WALL do data[shape:index(goal.x, corner.y + y, goal.z)] = beacon end
    manip:set_data(data)
    manip:write_to_map(true)
    area.send(player, corner.y, corner.y + WALL, 16)
    before = nil
    local start = middle(start_x, start_z)
    done({pos = {x = start.x, y = corner.y + 0.5, z = start.z}, yaw = 90 * random:next(0, 3), pitch = 0})
  end)
end

local function distance(pos) return math.sqrt((pos.x - goal.x) ^ 2 + (pos.z - goal.z) ^ 2) end

function maze.info(pos) return {distance = distance(pos)} end

function maze.moved(pos)
  local now = distance(pos)
  local progress = before and before - now or 0
  before = now
  local arrived = now <= ARRIVED
  return {progress = progress, events = arrived and 1 or 0, terminated = arrived}
end

function maze.started(pos) before = distance(pos) end

return maze
