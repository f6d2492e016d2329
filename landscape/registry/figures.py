"""Every kind of figure by name."""

from __future__ import annotations

from ..base.names import Entry, Registry

# What `Result.plot` draws with: figures come after results in the order of rooms.
PLOT = Entry("landscape.figures.natural:plot", "one result as the figure that shows it best")

FIGURES = Registry(
    "figure",
    {
        "training": Entry(
            "landscape.figures.course.training:draw", "loss, per-domain loss and domain-loss variance over training"
        ),
        "probes": Entry(
            "landscape.figures.course.probes:draw", "surrogate gap, gradient angles and more over training"
        ),
        "gradient-angle": Entry(
            "landscape.figures.course.gradient_angle:draw",
            "angle between the gradients at w and at the ascent point over training",
        ),
        "eigenvalues": Entry(
            "landscape.figures.curvature.eigenvalues:draw", "top eigenvalues per optimizer, with residuals"
        ),
        "spectra": Entry(
            "landscape.figures.curvature.spectra:draw", "spectral densities: rows optimizers, columns checkpoints"
        ),
        "group-spectra": Entry(
            "landscape.figures.curvature.group_spectra:draw",
            "eigenvalues per block, module or kind of parameter, columns checkpoints",
        ),
        "curvature-course": Entry(
            "landscape.figures.curvature.curvature_course:draw", "lambda_1, lambda_5 and their ratio over training"
        ),
        "m-sharpness": Entry("landscape.figures.sharpness.m_sharpness:draw", "m-sharpness over m per optimizer"),
        "sharpness-radius": Entry(
            "landscape.figures.sharpness.sharpness_radius:draw", "m-sharpness over rho per optimizer"
        ),
        "domain-sharpness": Entry(
            "landscape.figures.sharpness.domain_sharpness:draw",
            "sharpness of the pooled loss beside that of each domain",
        ),
        "local-flatness": Entry(
            "landscape.figures.sharpness.local_flatness:draw", "F_gamma over gamma, on domains trained on and others"
        ),
        "controls": Entry(
            "landscape.figures.sharpness.controls:draw", "map of the measures that move when the network is rescaled"
        ),
        "slice": Entry("landscape.figures.surface.slice:draw", "1-D slices of the loss along the same directions"),
        "twin-slice": Entry(
            "landscape.figures.surface.twin_slice:draw",
            "1-D slices with loss and accuracy, training and test data, on one picture",
        ),
        "contour": Entry("landscape.figures.surface.contour:draw", "2-D contours on one scale with one colour bar"),
        "surface-movie": Entry(
            "landscape.figures.surface.surface_movie:draw",
            "the loss around a network while it is trained (gif, html)",
        ),
        "domain-surfaces": Entry(
            "landscape.figures.surface.domain_surfaces:draw", "2-D contours per domain and optimizer, on one scale"
        ),
        "plane": Entry(
            "landscape.figures.surface.plane:draw", "planes through checkpoints: trajectories, three minima"
        ),
        "trajectory-movie": Entry(
            "landscape.figures.surface.trajectory_movie:draw", "trajectories growing in their plane (gif, html)"
        ),
        "path": Entry("landscape.figures.surface.path:draw", "loss between two checkpoints, with its barrier"),
        "merge-tree": Entry(
            "landscape.figures.surface.merge_tree:draw", "minima of 2-D surfaces and where basins meet"
        ),
        "surface3d": Entry("landscape.figures.surface.surface3d:draw", "3-D surfaces, still or to turn (html)"),
        "domains": Entry("landscape.figures.per_domain.domains:draw", "loss and accuracy per domain and optimizer"),
        "domain-curves": Entry(
            "landscape.figures.per_domain.domain_curves:draw",
            "per-domain losses over training, also scaled to [0, 1], their variance and conflict",
        ),
        "domain-matrix": Entry(
            "landscape.figures.per_domain.domain_matrix:draw",
            "gradient cosines and sharpness across domains as matrices",
        ),
        "unseen": Entry(
            "landscape.figures.per_domain.unseen:draw", "accuracy on each domain that was held out in turn"
        ),
        "accuracy-radius": Entry(
            "landscape.figures.sharpness.accuracy_radius:draw", "accuracy against rho, beside plain training"
        ),
        "error-reduction": Entry(
            "landscape.figures.course.error_reduction:draw",
            "relative error reduction against plain training, dot per seed",
        ),
        "study-scatter": Entry(
            "landscape.figures.study.study_scatter:draw", "measures against gaps, a point per model"
        ),
        "study-forest": Entry(
            "landscape.figures.study.study_forest:draw", "rank correlations with intervals, per measure"
        ),
        "study-settings": Entry(
            "landscape.figures.study.study_settings:draw", "rank correlations within one hyper-parameter at a time"
        ),
        "study-methods": Entry(
            "landscape.figures.study.study_methods:draw", "paired differences of methods to a baseline"
        ),
    },
)
