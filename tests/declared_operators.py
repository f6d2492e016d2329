"""Lets torchvision be imported beside a build of torch that its compiled operators do not belong to.

Registries hold torchvision built against CUDA, whose operators do not load beside a CPU build of torch, and then it
cannot be imported. None of its classification networks needs them; so they are declared, without an implementation.
"""

import importlib.machinery
import sys


class Declared:
    """A finder that finds nothing: it acts when torchvision is first looked for."""

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision" and not hasattr(self, "library"):
            import torch

            spec = importlib.machinery.PathFinder.find_spec(name, sys.path)
            try:
                torch.ops.load_library(spec.submodule_search_locations[0] + "/_C.so") if spec else None
            except OSError:
                self.library = torch.library.Library(name, "FRAGMENT")
                for op in ["nms", "qnms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d"]:
                    self.library.define(op + "(Tensor a) -> Tensor")


sys.meta_path.insert(0, Declared())
