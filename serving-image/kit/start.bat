@echo off
rem Starts the model server of this folder: http://localhost:8987/upload. "start.bat --help" lists the options.
setlocal
cd /d "%~dp0"

if not exist venv\complete.txt goto install
venv\Scripts\python.exe -c pass >nul 2>nul && goto run

:install
set "CHECK=import sys, sysconfig; sys.exit((sys.version_info[:2], sysconfig.get_platform()) != ((3, 11), 'win-amd64'))"
set "PYTHON="
py -3.11 -c "%CHECK%" >nul 2>nul && set "PYTHON=py -3.11"
if not defined PYTHON python -c "%CHECK%" >nul 2>nul && set "PYTHON=python"
if not defined PYTHON goto no_python

echo Installing into the folder venv, once ...
%PYTHON% -m venv --clear venv || goto no_venv
venv\Scripts\python.exe -m pip install --quiet --disable-pip-version-check --no-index --find-links wheels --no-deps --requirement requirements.txt || goto no_wheels
echo complete> venv\complete.txt

:run
venv\Scripts\python.exe -m bloomery_serving start %*
set "CODE=%errorlevel%"
rem After a double click, the window stays open, so that the reason can be read.
if not "%CODE%"=="0" pause
exit /b %CODE%

:no_python
echo This kit needs Python 3.11 (64 bit), which is not installed here. Another version does not do.
echo Install it from https://www.python.org/downloads/windows/ or with: winget install Python.Python.3.11
goto failed

:no_venv
echo The folder venv cannot be made in %CD%: unpack the kit into a folder of your own.
goto failed

:no_wheels
echo The folder wheels lacks what the line above names: README.txt says what belongs there.

:failed
pause
exit /b 1
