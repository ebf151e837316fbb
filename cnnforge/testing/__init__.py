"""What tests of kernels and layers share."""

from cnnforge.testing.tolerance import assert_close as assert_close
from cnnforge.testing.tolerance import error_bounds as error_bounds
