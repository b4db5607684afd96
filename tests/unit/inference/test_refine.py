import numpy as np

from medseg.geometry import GridMap
from medseg.inference.refine import crop_volume, cut_out, source_voxels
from medseg.volume import Volume


def test_cut_out_is_the_box_and_its_margin_inside_the_film():
    # One voxel of the network is 10 x 20 pixels: i = 10 t + 4.5, and j runs backwards from 389.5.
    grid = GridMap.permute_flip((300, 400), (0, 1), (False, True))
    grid = grid.then(GridMap.resize((300, 400), (30, 20)))
    mask = np.zeros((30, 20), dtype=bool)
    mask[5:15, 2:7] = True
    assert cut_out(mask, grid, margin=0) == ((50, 260), (100, 100))
    assert cut_out(mask, grid, margin=0.2) == ((30, 240), (140, 140))
    assert cut_out(mask, grid, margin=1) == ((0, 160), (250, 240))


def test_crop_moves_the_affine_along():
    affine = np.array([[0.0, -0.7, 0.2, 5], [0.8, 0.1, 0.0, -3], [0.1, 0.0, 2.5, 7], [0, 0, 0, 1]])
    volume = Volume(array=np.arange(2 * 7 * 6 * 5).reshape(2, 7, 6, 5), affine=affine)
    part = crop_volume(volume, (2, 1, 3), (4, 3, 2))
    np.testing.assert_array_equal(part.array, volume.array[:, 2:6, 1:4, 3:5])
    np.testing.assert_allclose(part.affine @ [1, 2, 1, 1], affine @ [3, 3, 4, 1])


def test_source_voxels_of_a_mask():
    mask = np.zeros((30, 20), dtype=bool)
    mask[5:15, 2:7] = True
    assert source_voxels(mask, GridMap.resize((300, 400), (30, 20))) == 50 * 10 * 20
