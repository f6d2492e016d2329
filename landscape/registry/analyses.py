"""The analyses that `landscape analyze` and a study can run."""

from __future__ import annotations

from ..base.names import Entry, Registry

ANALYSES = Registry(
    "analysis",
    {
        "hessian": Entry("landscape.curvature.hessian:hessian", "Hessian eigenvalues with true residuals"),
        "sharpness": Entry("landscape.measures.sharpness:sharpness", "m-sharpness and its relatives"),
        "surface": Entry("landscape.surfaces.surface:surface", "1-D and 2-D slices of the loss surface"),
        "domains": Entry(
            "landscape.domainwise.domains:domains", "per-domain loss, accuracy, variance and gradient cosines"
        ),
    },
)
