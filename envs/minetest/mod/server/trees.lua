-- Makes the shapes of trees deterministic.
--
-- The engine places leaves and slices of a schematic at random, seeded by the clock. Here they are drawn once per
-- schematic, from a fixed seed; what remains in it is always placed.

local ALWAYS = 254
local trees = {}

function trees.fix(schematic)
  local fixed = minetest.read_schematic(schematic, {write_yslice_prob = "all"})
  local random = PcgRandom(#fixed.data)
  for _, node in ipairs(fixed.data) do
    local prob = node.prob or node.param1 or ALWAYS
    node.prob = (prob >= ALWAYS or random:next(1, ALWAYS) < prob) and ALWAYS or 0
    node.param1 = nil
  end
  local size, empty = fixed.size, {}
  for _, slice in ipairs(fixed.yslice_prob or {}) do
    if slice.prob < ALWAYS and random:next(1, ALWAYS) >= slice.prob then empty[slice.ypos] = true end
  end
  -- The engine skips a slice by moving those above it down: so the slice is taken out.
  local height, data = 0, {}
  for y = 0, size.y - 1 do
    if not empty[y] then height = height + 1 end
  end
  for z = 0, size.z - 1 do
    for y = 0, size.y - 1 do
      for x = 0, size.x - 1 do
        if not empty[y] then data[#data + 1] = fixed.data[1 + x + size.x * (y + size.y * z)] end
      end
    end
  end
  return {size = {x = size.x, y = height, z = size.z}, data = data}
end

local decorations, names = {}, {}
for name, definition in pairs(minetest.registered_decorations) do
  decorations[tostring(name)] = definition
  names[#names + 1] = tostring(name)
end
table.sort(names) -- the order of registration is part of what a seed gives
minetest.clear_registered_decorations()
for _, name in ipairs(names) do
  local definition = decorations[name]
  if definition.deco_type == "schematic" then
    definition = table.copy(definition)
    definition.schematic = trees.fix(definition.schematic)
  end
  minetest.register_decoration(definition)
end

trees.apple = trees.fix(minetest.get_modpath("default") .. "/schematics/apple_tree.mts")

return trees
