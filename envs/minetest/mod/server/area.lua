-- The area of the world of an episode: generated in a fixed order, sent whole, and removed again.
--
-- Areas are two by two chunks of the map generator and lie far from each other, so that no area depends on another.
-- All blocks that can be seen from it are sent beforehand; during an episode nothing arrives. The client makes the
-- meshes of blocks in the order of their arrival; the last blocks sent hold a fence, in front of which the
-- camera waits: when Python sees its colour, everything before it is there to be seen. Fences are green and red in turn.

local area = {}

local CHUNK = 80
local APART = 4 * CHUNK
local SIDE = 64 -- areas per side of the square they lie in, around the origin
local MARGIN = 16 -- nodes beyond a chunk that its generation touches
local LOW, HIGH = -32, 47 -- one chunk of height
local SKY = 160 -- the camera waits there
local FENCE = 24 -- nodes before the camera

area.RADIUS = 32 -- nodes from the centre that the body may walk
local current

local function block(value) return math.floor(value / 16) end

-- The centre of area number `index`, the corner where its four chunks meet.
local function centre(index)
  index = index % (SIDE * SIDE)
  local x, z = index % SIDE - SIDE / 2, math.floor(index / SIDE) - SIDE / 2
  return {x = APART * x + 48, y = 0, z = APART * z + 48}
end

local function emerge(low, high, done)
  minetest.emerge_area(low, high, function(_, _, remaining)
    if remaining == 0 then done() end
  end)
end

-- Moves the camera before the fence, removes the last area, generates this one, then calls done(centre).
function area.enter(player, index, done)
  local c = centre(index)
  player:set_look_vertical(0)
  player:set_look_horizontal(0)
  player:set_pos({x = c.x, y = SKY, z = c.z})
  if current then
    minetest.delete_area({x = current.x - CHUNK - MARGIN, y = LOW - MARGIN, z = current.z - CHUNK - MARGIN},
      {x = current.x + CHUNK + MARGIN - 1, y = HIGH + MARGIN, z = current.z + CHUNK + MARGIN - 1})
    minetest.delete_area({x = current.x - 32, y = SKY - 32, z = current.z - 32},
      {x = current.x + 31, y = SKY + 31, z = current.z + 47})
  end
  current = c
  emerge({x = c.x - CHUNK, y = LOW, z = c.z - CHUNK}, {x = c.x + CHUNK - 1, y = HIGH, z = c.z + CHUNK - 1}, function()
    emerge({x = c.x - 24, y = SKY - 24, z = c.z - 24}, {x = c.x + 24, y = SKY + 24, z = c.z + FENCE + 8}, function()
      done(c)
    end)
  end)
end

local function fence(player, name)
  local from = {x = current.x - 12, y = SKY - 10, z = current.z + FENCE}
  local to = {x = current.x + 12, y = SKY + 14, z = current.z + FENCE}
  local manip = minetest.get_voxel_manip(from, to)
  local low_corner, high_corner = manip:get_emerged_area()
  local data, shape = manip:get_data(), VoxelArea:new({MinEdge = low_corner, MaxEdge = high_corner})
  local content = minetest.get_content_id(name)
  for index in shape:iterp(from, to) do data[index] = content end
  manip:set_data(data)
  manip:write_to_map(false)
  for x = block(from.x), block(to.x) do
    for y = block(from.y), block(to.y) do player:send_mapblock({x = x, y = y, z = block(from.z)}) end
  end
end

-- Sends what can be seen between these heights, then the fence.
function area.send(player, low, high, reach)
  for x = block(current.x - reach), block(current.x + reach - 1) do
    for z = block(current.z - reach), block(current.z + reach - 1) do
      for y = block(low), block(high) do player:send_mapblock({x = x, y = y, z = z}) end
    end
  end
  area.fence = area.fence == "fence1" and "fence2" or "fence1"
  fence(player, "dreamenv:" .. area.fence)
end

-- Takes the fence away, so that the client has none when it comes here again.
function area.open(player) fence(player, "air") end

return area
