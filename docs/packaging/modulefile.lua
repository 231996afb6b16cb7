-- A module of Lmod: copy it to MODULEPATH/mpifarm/0.5.0.lua, and say where mpifarm is.
--
-- It is for an environment of its own, made by
--   python3.11 -m venv PREFIX && PREFIX/bin/pip install mpifarm-0.5.0-py3-none-any.whl
--   mkdir -p PREFIX/module/bin && ln -s ../../bin/mpifarm PREFIX/module/bin
-- Packages of EasyBuild and Spack come with their modules.

local prefix = "/opt/mpifarm/0.5.0"
local mpi = "openmpi"  -- the module of the MPI that mpi4py in PREFIX uses; "" for none

help([[
mpifarm runs each command of a text file once, over the ranks of an MPI job.

  mpifarm tasks.txt                                   on this machine
  mpifarm submit -N 8 -t 4:00:00 tasks.txt            in a job
  srun -N 8 $MPIFARM_PYTHON -I -m mpifarm tasks.txt   in a job script

man mpifarm; mpifarm help; mpifarm doctor says whether a farm has here what it needs.
]])

whatis("Name: mpifarm")
whatis("Version: 0.5.0")
whatis("Description: runs each command of a text file once, over the ranks of an MPI job")
whatis("Keywords: task farm, many-task computing, MPI, Slurm, Python")

conflict("mpifarm")

if mpi ~= "" then
  depends_on(mpi)
end

-- Not PREFIX/bin: its python and pip would hide those of the user.
prepend_path("PATH", pathJoin(prefix, "module", "bin"))
prepend_path("MANPATH", pathJoin(prefix, "share", "man"))
append_path("MANPATH", "")  -- and the pages of the system
setenv("MPIFARM_PYTHON", pathJoin(prefix, "bin", "python"))

local completion = {
  bash = "share/bash-completion/completions/mpifarm",
  fish = "share/fish/vendor_completions.d/mpifarm.fish",
  zsh = "share/zsh/site-functions/_mpifarm",
}
local script = completion[myShellName()]
if script then
  execute{cmd = "source " .. pathJoin(prefix, script), modeA = {"load"}}
end
