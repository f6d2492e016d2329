"""The directions along which a surface can be cut."""

from __future__ import annotations

from ..base.names import Entry, Registry

DIRECTIONS = Registry(
    "direction",
    {
        "filter": Entry(
            "landscape.surfaces.directions.random:draw",
            "Gaussian, each filter scaled to the norm of the network's filter",
        ),
        "layer": Entry(
            "landscape.surfaces.directions.random:draw",
            "Gaussian, each tensor scaled to the norm of the network's tensor",
        ),
        "model": Entry(
            "landscape.surfaces.directions.random:draw", "Gaussian, the whole scaled to the norm of the network"
        ),
        "unit": Entry("landscape.surfaces.directions.random:draw", "Gaussian, the whole scaled to length 1"),
        "gaussian": Entry("landscape.surfaces.directions.random:draw", "Gaussian as drawn, entries of variance 1"),
        "eigvec:K": Entry(
            "landscape.curvature.hessian:hessian", "eigenvector of the K-th largest Hessian eigenvalue, of length 1"
        ),
        "pca:K": Entry(
            "landscape.surfaces.directions.trajectory:components",
            "K-th principal component of the runs' checkpoints",
        ),
        "grad": Entry("landscape.surfaces.directions.ascent:gradient_direction", "gradient, of length 1"),
        "sam:RHO": Entry(
            "landscape.surfaces.directions.ascent:sam_direction",
            "SAM's step of radius RHO: 1 is its perturbed point",
        ),
        "asam:RHO": Entry(
            "landscape.surfaces.directions.ascent:asam_direction", "ASAM's ascent step of radius RHO, likewise"
        ),
        "domain-grad:NAME": Entry(
            "landscape.surfaces.directions.ascent:domain_gradient_direction",
            "gradient of a domain's loss, length 1",
        ),
        "checkpoint:FILE": Entry(
            "landscape.surfaces.directions.snapshots:to_checkpoint",
            "from the network to another run or checkpoint: 1 is there",
        ),
        "file:FILE": Entry(
            "landscape.surfaces.directions.direction:read_direction",
            "stored directions, for example those of another surface",
        ),
    },
)
