# Spack's own ends before 3.30.  Remove this file once `spack info py-filelock` has it.
from spack_repo.builtin.packages.py_filelock.package import PyFilelock as BuiltinPyFilelock

from spack.package import *


class PyFilelock(BuiltinPyFilelock):
    __doc__ = BuiltinPyFilelock.__doc__

    version("3.32.6", sha256="a3f55a18af3652a94d8f47d6055df434f254ca1d02ef2524850c6d249ca2512c")
