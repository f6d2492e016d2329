"""What there is: one table per kind of name, read by ``landscape list`` and wherever a name is resolved.

Nothing here imports torch.
"""

from .analyses import ANALYSES as ANALYSES
from .data import DATA as DATA
from .directions import DIRECTIONS as DIRECTIONS
from .figures import FIGURES as FIGURES
from .losses import LOSSES as LOSSES
from .losses import OBJECTIVES as OBJECTIVES
from .measures import MEASURES as MEASURES
from .models import MODELS as MODELS
from .optimizers import OPTIMIZERS as OPTIMIZERS
from .probes import PROBES as PROBES
