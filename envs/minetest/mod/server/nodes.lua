-- Our own nodes: the beacon, the fence before the waiting camera, the maze. Python generates their textures.

local function register(name, texture, glow)
  minetest.register_node("dreamenv:" .. name, {
    description = name,
    tiles = {texture},
    paramtype = "light",
    light_source = glow,
    is_ground_content = false,
  })
end

register("beacon", "dreamenv_white.png^[multiply:#ff00c0", 14)
register("fence1", "dreamenv_white.png^[multiply:#00ff00", 14)
register("fence2", "dreamenv_white.png^[multiply:#ff0000", 14)
register("floor", "dreamenv_floor.png", 0)
for quarter = 1, 4 do register("wall" .. quarter, "dreamenv_wall" .. quarter .. ".png", 0) end
