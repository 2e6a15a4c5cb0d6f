#!/bin/sh
# Lays down Istio and the whole VoiceCore mesh. All arguments go to 'sluice mesh install', which
# says what they are with --help; its exit status is this script's. SLUICE names the binary, if not by PATH.
exec "${SLUICE:-sluice}" mesh install --profile voicecore "$@"
