-- Removes everything that moves by itself, so that the same state gives the same frame.

for _, registered in ipairs({minetest.registered_abms, minetest.registered_lbms}) do
  for index = #registered, 1, -1 do registered[index] = nil end
end

local function animated(tiles)
  for _, tile in ipairs(tiles or {}) do
    if type(tile) == "table" and tile.animation then return true end
  end
  return false
end

for name, definition in pairs(minetest.registered_nodes) do
  if animated(definition.tiles) or animated(definition.special_tiles) then
    local liquid = name:find("water") and "default_water.png" or name:find("lava") and "default_lava.png"
    if liquid then
      local tile = {name = liquid, backface_culling = false}
      minetest.override_item(name, {tiles = {tile}, special_tiles = {tile, tile}})
    else
      minetest.override_item(name, {drawtype = "airlike", tiles = {}, special_tiles = {}, light_source = 0})
    end
  end
  local groups = definition.groups or {}
  if groups.falling_node or groups.leafdecay then
    groups = table.copy(groups)
    groups.falling_node, groups.leafdecay = nil, nil
    minetest.override_item(name, {groups = groups})
  end
  if (groups.tree or 0) > 0 or (groups.leaves or 0) > 0 then
    minetest.registered_nodes[name].after_destruct = nil -- leaves would decay, by the wall clock
    minetest.registered_nodes[name].on_timer = nil
  end
end
