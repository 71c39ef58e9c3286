"""Image data: described, derived, cached once, and served in batches."""

from oneticket.data.augmentation import Augmentation, Normalisation
from oneticket.data.batches import BatchSource, DatasetBatches, ImageBatches, TensorBatches, as_batches
from oneticket.data.cache import default_cache
from oneticket.data.decoding import pixel_limit
from oneticket.data.reference import DataRef, open_data, resolve
from oneticket.data.sets import ImageSet, Splits
from oneticket.data.sources import SOURCES, source
from oneticket.data.spec import DataSpec

__all__ = [
    "SOURCES",
    "Augmentation",
    "BatchSource",
    "DataRef",
    "DataSpec",
    "DatasetBatches",
    "ImageBatches",
    "ImageSet",
    "Normalisation",
    "Splits",
    "TensorBatches",
    "as_batches",
    "default_cache",
    "open_data",
    "pixel_limit",
    "resolve",
    "source",
]
