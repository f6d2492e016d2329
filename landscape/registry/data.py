"""The built-in data sets, and the prefixes that read folders and libraries."""

from __future__ import annotations

from ..base.names import Entry, Registry

DATA = Registry(
    "data set",
    {
        "digits-rotated": Entry(
            "landscape.data.digits:digits_rotated",
            "1,797 real 8x8 digits as six rotation domains, 0 to 75 degrees, each image in one domain",
        ),
        "digits": Entry("landscape.data.digits:digits", "1,797 real 8x8 digits, one domain"),
        "mnist5k-rotated": Entry(
            "landscape.data.mnist:mnist5k_rotated",
            "5,000 real MNIST digits as six rotation domains, 0 to 75 degrees (extra mnist)",
        ),
        "two-digits": Entry(
            "landscape.data.mnist:two_digits",
            "two real sources of digits as domains at 28x28: mnist and optical (extra mnist)",
        ),
        "gaussian-domains": Entry(
            "landscape.data.gaussian:gaussian_domains",
            "synthetic Gaussian classes in domains with clear boundaries (overlap=0..1)",
        ),
        "domains:FOLDER": Entry(
            "landscape.data.folders:domain_folders",
            "images as domain/class/image, in the order and with the split of DomainBed (size=64)",
        ),
        "images:FOLDER": Entry(
            "landscape.data.folders:class_folders",
            "images as class/image, or with train/, val/, test/ above the classes (size=64)",
        ),
        "hf:NAME_OR_FOLDER": Entry(
            "landscape.data.hf:hf_data", "data of the datasets library, saved to a folder or on the hub"
        ),
    },
)
