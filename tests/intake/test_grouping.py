from vidcurate.intake.grouping import RowStore


def test_rows_come_by_key_in_the_order_of_first_rows(tmp_path):
    store = RowStore(tmp_path)
    for i in range(60_000):  # some batches
        store.add(f"key {i * 7 % 20_000}", (i, "ü"))
    for _ in range(2):
        groups = list(store.groups())
        assert len(groups) == 20_000
        assert groups[1] == ("key 7", [(1, "ü"), (20_001, "ü"), (40_001, "ü")])
        firsts = [rows[0][0] for _, rows in groups]
        assert firsts == list(range(20_000))
    store.close()
    assert list(tmp_path.iterdir()) == []


def test_nothing_added_gives_nothing(tmp_path):
    store = RowStore(tmp_path)
    assert list(store.groups()) == []
    store.close()
