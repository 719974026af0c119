"""The verifiers of generated tasks agree with a reader, on answers labelled before any of them was run."""

from pathlib import Path

import rung.scoring
from rung.scoring.validation import ValidationSettings, labelled_answers, reliability, validate_scorers

LABELLED = labelled_answers(Path(rung.scoring.__file__).parent / "labelled_tasks.yaml")
NAMES = {"final_answer", "math", "sql", "json_schema", "z3_identity", "z3_property", "z3_program", "reasoning_gym"}


def test_every_verifier_of_generated_tasks_is_measured_and_good_enough():
    quick = ValidationSettings(num_resamples=200)
    agreement = validate_scorers(LABELLED, quick)
    assert set(agreement.verifiers) == NAMES
    assert reliability(agreement, NAMES, quick).reasons == (), agreement.disagreements
    assert agreement.num_abstained == 0
