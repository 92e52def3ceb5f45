-- The walkable ground of an area: its height, and which columns can be reached on foot.

local ground = {}

local UP, DOWN = 1, 3 -- nodes that feet climb or drop from one column to the next

-- Reads the ground around a centre: surface[x][z] = {y, name} of the highest solid node with two free ones above it.
function ground.read(c, radius, low, high)
  local from = {x = c.x - radius, y = low, z = c.z - radius}
  local to = {x = c.x + radius, y = high, z = c.z + radius}
  local manip = minetest.get_voxel_manip(from, to)
  local low_corner, high_corner = manip:get_emerged_area()
  local data, shape = manip:get_data(), VoxelArea:new({MinEdge = low_corner, MaxEdge = high_corner})
  local kinds = {} -- content id -> 0 free, 1 ground, 2 anything else that one cannot stand on or pass
  local function kind(id)
    local known = kinds[id]
    if known then return known end
    local name = minetest.get_name_from_content_id(id)
    local definition = minetest.registered_nodes[name]
    local groups = definition and definition.groups or {}
    if not definition or name == "ignore" or definition.liquidtype ~= "none" or (definition.damage_per_second or 0) > 0 then
      known = 2
    elseif not definition.walkable then
      known = 0
    elseif groups.tree or groups.leaves or groups.sapling or name:find("cactus") or name:find("fence") then
      known = 2
    else
      known = 1
    end
    kinds[id] = known
    return known
  end
  local surface, lowest, highest = {}, high, low
  for x = from.x, to.x do
    surface[x] = {}
    for z = from.z, to.z do
      for y = to.y - 2, from.y, -1 do
        local found = kind(data[shape:index(x, y, z)])
        if found == 1 then
          local free = kind(data[shape:index(x, y + 1, z)]) == 0 and kind(data[shape:index(x, y + 2, z)]) == 0
          if free then surface[x][z] = y end
          lowest, highest = math.min(lowest, y), math.max(highest, y)
          break
        end
      end
    end
  end
  return surface, lowest, highest
end

-- Every column that feet reach from a start, as a list of {x, y, z, steps, from}, nearest first.
function ground.reach(surface, start)
  local list, seen = {{x = start.x, y = start.y, z = start.z, steps = 0}}, {}
  local function key(x, z) return x * 65536 + z end
  seen[key(start.x, start.z)] = true
  local index = 1
  while list[index] do
    local here = list[index]
    for _, d in ipairs({{1, 0}, {-1, 0}, {0, 1}, {0, -1}}) do
      local x, z = here.x + d[1], here.z + d[2]
      local y = surface[x] and surface[x][z]
      if y and not seen[key(x, z)] and y - here.y <= UP and here.y - y <= DOWN then
        seen[key(x, z)] = true
        list[#list + 1] = {x = x, y = y, z = z, steps = here.steps + 1, from = here}
      end
    end
    index = index + 1
  end
  return list
end

return ground
