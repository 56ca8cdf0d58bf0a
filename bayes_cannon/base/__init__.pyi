from .engines.opening import open_engine as open_engine
from .parallel import available_cores as available_cores
from .parallel import each_block as each_block
from .resources import data_path as data_path
from .storage import check_output as check_output
from .storage import read_tree as read_tree
from .storage import write_atomically as write_atomically
from .storage import write_tree as write_tree
