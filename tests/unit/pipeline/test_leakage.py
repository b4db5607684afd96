from medseg.pipeline.leakage import Seen, find_leaks


def seen(case_id, patient_id, digest):
    return Seen(case_id=case_id, patient_id=patient_id, digest=digest)


def test_the_same_pixels_and_the_same_patient_are_leaks():
    trained = [seen("t2", "p2", "bb"), seen("t1", "p1", "aa"), seen("t3", "p3", "cc")]
    assert find_leaks(seen("x", "p9", "dd"), trained) == []
    assert find_leaks(seen("x", "p9", "aa"), trained) == ["x has the same pixels as the training case t1"]
    assert find_leaks(seen("x", "p2", "dd"), trained) == ["x is of the same patient as the training case t2"]
