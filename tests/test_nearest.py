from vidcurate.nearest import suggest


def test_the_nearest_name_and_all_are_told():
    assert suggest("p59", ["mean", "p95"]) == "; did you mean 'p95'? (known: mean, p95)"


def test_a_far_name_gets_no_guess():
    assert suggest("zebra", ["mean", "p95"]) == " (known: mean, p95)"


def test_dashes_and_case_do_not_matter():
    assert suggest("Min-Length", ["min_length"]).startswith("; did you mean 'min_length'?")


def test_nothing_known():
    assert suggest("x", []) == " (none is known here)"


def test_a_long_list_is_cut():
    assert suggest("zz", [f"n{i}" for i in range(40)]).endswith("n23, ...)")
