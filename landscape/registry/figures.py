"""Every kind of figure by name."""

from __future__ import annotations

from ..names import Entry, Registry

FIGURES = Registry(
    "figure",
    {
        "training": Entry(
            "landscape.figures.training:draw", "loss, per-domain loss and domain-loss variance over training"
        ),
        "probes": Entry("landscape.figures.probes:draw", "surrogate gap, gradient angles and more over training"),
        "eigenvalues": Entry("landscape.figures.eigenvalues:draw", "top eigenvalues per optimizer, with residuals"),
        "spectra": Entry(
            "landscape.figures.spectra:draw", "spectral densities: rows optimizers, columns checkpoints"
        ),
        "curvature-course": Entry(
            "landscape.figures.curvature_course:draw", "lambda_1, lambda_5 and their ratio over training"
        ),
        "m-sharpness": Entry("landscape.figures.m_sharpness:draw", "m-sharpness over m per optimizer"),
        "slice": Entry("landscape.figures.slice:draw", "1-D slices of the loss along the same directions"),
        "contour": Entry("landscape.figures.contour:draw", "2-D contours on one scale with one colour bar"),
        "domain-surfaces": Entry(
            "landscape.figures.domain_surfaces:draw", "2-D contours per domain and optimizer, on one scale"
        ),
        "plane": Entry("landscape.figures.plane:draw", "planes through checkpoints: trajectories, three minima"),
        "path": Entry("landscape.figures.path:draw", "loss between two checkpoints, with its barrier"),
        "merge-tree": Entry("landscape.figures.merge_tree:draw", "minima of 2-D surfaces and where basins meet"),
        "surface3d": Entry("landscape.figures.surface3d:draw", "interactive 3-D surfaces (html)"),
        "domains": Entry("landscape.figures.domains:draw", "loss and accuracy per domain and optimizer"),
        "domain-curves": Entry(
            "landscape.figures.domain_curves:draw",
            "per-domain losses over training, also scaled to [0, 1], their variance and conflict",
        ),
        "domain-matrix": Entry(
            "landscape.figures.domain_matrix:draw", "gradient cosines and sharpness across domains as matrices"
        ),
    },
)
