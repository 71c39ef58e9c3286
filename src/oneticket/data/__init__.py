"""Data: described, derived, cached once, and served in batches."""

from oneticket.data.augmentation import Augmentation, Normalisation, normalisation_of
from oneticket.data.batches import BatchSource, DatasetBatches, ImageBatches, RowBatches, TensorBatches, as_batches
from oneticket.data.cache import default_cache
from oneticket.data.decoding import pixel_limit
from oneticket.data.opening import images, table, text
from oneticket.data.reference import DataRef, open_data, resolve
from oneticket.data.sets import AnySet, ImageSet, Splits, TableSet, TextSet, counted
from oneticket.data.sources import SOURCES, source
from oneticket.data.spec import DataSpec

__all__ = [
    "SOURCES",
    "AnySet",
    "Augmentation",
    "BatchSource",
    "DataRef",
    "DataSpec",
    "DatasetBatches",
    "ImageBatches",
    "ImageSet",
    "Normalisation",
    "RowBatches",
    "Splits",
    "TableSet",
    "TensorBatches",
    "TextSet",
    "as_batches",
    "counted",
    "default_cache",
    "images",
    "normalisation_of",
    "open_data",
    "pixel_limit",
    "resolve",
    "source",
    "table",
    "text",
]
