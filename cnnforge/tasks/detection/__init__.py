"""Detection: find the objects in an image, their boxes and their classes."""

from cnnforge.tasks.detection.metrics import DetectionEvaluation
from cnnforge.tasks.detection.rows import DetectedObject, Detections
from cnnforge.tasks.detection.task import Detection

__all__ = ["DetectedObject", "Detection", "DetectionEvaluation", "Detections"]
