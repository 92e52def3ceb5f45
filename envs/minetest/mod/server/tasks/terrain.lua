-- Shared by the tasks on natural terrain: find an area with enough walkable ground, and a start in it.

local area, ground = ...

local terrain = {}

local ENOUGH = 1200 -- columns that feet must reach from the start
local LOW, HIGH = -32, 44

terrain.RANGE = 80 -- the client sees 40 nodes far, and the body walks 32 from the centre

-- Calls done(surface, columns reached from the start, random numbers) once a good area has been entered.
function terrain.enter(seed, player, done)
  local random = PcgRandom(seed)
  local function try(index)
    area.enter(player, index, function(centre)
      local surface, lowest, highest = ground.read(centre, area.RADIUS - 2, LOW, HIGH)
      for _ = 1, 8 do
        local x, z = centre.x + random:next(-12, 12), centre.z + random:next(-12, 12)
        if surface[x][z] then
          local reached = ground.reach(surface, {x = x, y = surface[x][z], z = z})
          if #reached >= ENOUGH then
            return done({surface = surface, reached = reached, random = random, centre = centre,
              lowest = lowest, highest = highest})
          end
        end
      end
      return try(index + 1)
    end)
  end
  try(random:next(0, 4095))
end

function terrain.send(player, place)
  area.send(player, place.lowest - 12, place.highest + 20, terrain.RANGE)
end

function terrain.edge(place)
  return {x = place.centre.x, z = place.centre.z, radius = area.RADIUS}
end

return terrain
