import optuna

from rlnsp.sweep.outcome import outcome
from tests.sweep.toys import toy_plan


def test_a_cell_that_is_only_evaluated_has_no_iteration_to_count(tmp_path):
    found = outcome(toy_plan(tmp_path, "trainer.num_iterations=0,1"), optuna.create_study())
    evaluated, trained = (cell.work for cell in found.cells)
    assert evaluated is None
    assert trained is not None
