import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # helper modules, also for processes that tests spawn
