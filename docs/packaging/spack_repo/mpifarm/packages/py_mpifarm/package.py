# From a checkout, in an environment of Spack:
#   spack repo add docs/packaging/spack_repo/mpifarm
#   spack add py-mpifarm@0.5.0 && spack develop --path $PWD py-mpifarm@0.5.0
#   spack install
from spack_repo.builtin.build_systems.python import PythonPackage

from spack.package import *


class PyMpifarm(PythonPackage):
    """Run each command of a text file once, over the ranks of an MPI job.

    Its output and its outcome are kept, and after any end the same command goes on.
    """

    # As long as no index has it, the source is a checkout (spack develop), or a mirror of
    # yours with the file that `python -m build --sdist` makes.
    url = "file:///nonexistent/mpifarm-0.5.0.tar.gz"

    license("Apache-2.0")

    version("0.5.0")

    depends_on("python@3.11:", type=("build", "run"))
    depends_on("py-hatchling@1.26:", type="build")
    depends_on("py-mpi4py@4.1:", type=("build", "run"))
    depends_on("py-filelock@3.30:", type=("build", "run"))

    def setup_run_environment(self, env: EnvironmentModifications) -> None:
        # bash and fish look for completion below the first, zsh in the second.
        env.prepend_path("XDG_DATA_DIRS", self.prefix.share)
        env.prepend_path("FPATH", self.prefix.share.zsh.join("site-functions"))
