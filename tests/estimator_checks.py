"""What our heads do not promise of scikit-learn's contract for estimators."""


def exceptions(_: object) -> dict[str, str]:
    """For `parametrize_with_checks`: a weight of two is the same as a row that is there twice, but not bit by bit."""
    reason = "the folds of a temperature divide other rows, batches hold others, and sums in float32 round otherwise"
    return {
        "check_sample_weight_equivalence_on_dense_data": reason,
        "check_sample_weight_equivalence_on_sparse_data": reason,
    }
