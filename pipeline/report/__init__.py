"""The report: every number and picture of one run in one page that needs no network, and the same as text and JSON."""

from pipeline.report.build import build_report
from pipeline.report.inputs import Matrix, ReportInputs, ReportParams
from pipeline.report.similarity import class_similarity

__all__ = ["Matrix", "ReportInputs", "ReportParams", "build_report", "class_similarity"]
