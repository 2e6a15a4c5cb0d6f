# Lays down Istio and the whole VoiceCore mesh. All arguments go to 'sluice mesh install', which
# says what they are with --help; its exit status is this script's. SLUICE names the binary, if not by PATH.
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
$sluice = 'sluice'
if ($env:SLUICE) { $sluice = $env:SLUICE }
& $sluice mesh install --profile voicecore @args
exit $LASTEXITCODE
