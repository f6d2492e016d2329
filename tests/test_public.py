"""What is public, by name: a change here is a change for users, and belongs in the changelog."""

from __future__ import annotations

import inspect

import landscape
import landscape.optim
import landscape.specs

PUBLIC = """
    ASAM BatchLoss DISAM DISAMGSAM DISAMSAGM DataError DomainsSpec ERM EntropySGD Examples FSAM GSAM HessianSpec
    Interrupted LandscapeError LookSAM MicroBatches NumericalError PathSpec Problem ProblemSpec ResourceError Result
    Run SAGM SAM SWA SWAD SharpnessSpec SurfaceSpec TrainSpec USAM UsageError VREx WSAM analyze domains hessian
    keep_freed_memory open path processes record render reporting run_study scalars sharpness summarize surface
    train training_result write_report
"""
OPTIM = """
    ASAM BatchLoss DISAM DISAMGSAM DISAMSAGM ERM EntropySGD FSAM GSAM LookSAM MicroBatches SAGM SAM SWA SWAD USAM
    VREx WSAM
"""
PROBLEM = """
    batch_loss batch_sum batches check_custom_autograd_functions data_hash describe evaluate example_losses
    example_weights forward_only gradient head hvp loss loss_and_gradient loss_tensor micro_batches n_examples
    n_parameters network output penalty penalty_at per_example present_domains require_examples require_finite
    require_no_penalty restrict_to_domain restrict_to_examples restrict_to_parameters retry_on_oom shrink_after
    stretch summed sums temporary_weights to_float64 total_weight twice_differentiable twin unused_parameters
    weighted weights with_examples with_model with_penalty
"""
KEYWORDS = {
    "hessian": "problem spec seed per_domain store options",
    "sharpness": "problem spec seed per_domain options",
    "surface": "problem spec seed per_domain directions test training reaches store options",
    "path": "problem other spec seed training store options",
    "domains": "problem spec seed per_domain splits checkpoints options",
    "analyze": "kind target problem_spec spec out force trust reaches",
    "open": "target all_domains options",
    "train": "out resume force options",
    "record": (
        "model optimizer run batch loss every probe steps_per_epoch restore start model_name model_arg data data_arg "
        "seed log force"
    ),
    "run_study": "experiment out size changes workers scheduler",
    "render": "kind results out formats venue columns stem direction",
    "write_report": "results out title",
}


def test_names():
    assert sorted(landscape.__all__) == sorted(PUBLIC.split())
    assert sorted(landscape.optim.__all__) == sorted(OPTIM.split())
    assert not [name for name in landscape.__all__ if not inspect.getdoc(getattr(landscape, name))]


def test_what_a_problem_can_be_asked():
    members = {n for n in dir(landscape.Problem) if not n.startswith("_")}
    assert members == set(PROBLEM.split())


def test_arguments():
    for name, words in KEYWORDS.items():
        assert list(inspect.signature(getattr(landscape, name)).parameters) == words.split(), name
