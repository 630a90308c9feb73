"""The cells by their names in `eddy train --network` and in the manifest."""

from export.cells.attention import AttentionCell
from export.cells.cell import Cell
from export.cells.recurrent import GruCell, LstmCell, RnnCell
from export.cells.window import CnnCell, FfnCell

CELLS: dict[str, type[Cell]] = {
    cell.name: cell for cell in (LstmCell, GruCell, RnnCell, AttentionCell, CnnCell, FfnCell)
}
