"""The paper's tables as the package carries them."""

import pytest

from eltbench.studies.audit import paper


def test_every_table_of_the_paper_is_in_the_package():
    expected = [
        "imagenet256_diffusion",
        "imagenet256_masked",
        "throughput_tpu_v6e",
        "ucf101_masked",
    ]
    assert paper.names() == expected
    assert all(len(paper.table(name)) for name in paper.names())


def test_a_table_holds_the_papers_numbers():
    masked = paper.table("imagenet256_masked").set_index("model")
    assert masked.loc["ELT-XL 7Nx4L", "fid"] == 2.0
    assert masked.loc["ELT-XL 7Nx4L", "params_m"] == 111


@pytest.mark.parametrize("name", ["imagenet256_diffusion", "imagenet256_masked", "ucf101_masked"])
def test_effective_depth_and_layer_parameters_are_consistent(name):
    table = paper.table(name)
    if "effective_depth" in table:
        assert (table.unique_layers * table.loops == table.effective_depth).all()
    if "mlp_width" in table:  # layer parameters N·(4d² + 2·d·MLP), in millions, rounded or with embeddings on top
        layers = table.unique_layers * (4 * table.width**2 + 2 * table.width * table.mlp_width) / 1e6
        elt = table.family == "elt"
        assert (abs(layers[elt] - table.params_m[elt]) < 1.1).all()


def test_an_unknown_table_suggests_the_near_miss():
    with pytest.raises(ValueError, match="did you mean 'ucf101_masked'"):
        paper.table("ucf101")
