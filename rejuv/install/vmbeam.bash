# bash completion for vmbeam(1) and vmbeamd(8)
_vmbeam() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} names
	names=$(cd "${VMBEAM_RUNTIME_DIR:-/run/vmbeam}" 2>/dev/null && ls -d -- */ 2>/dev/null | tr -d /)
	COMPREPLY=()
	if [ "$COMP_CWORD" = 1 ]; then
		COMPREPLY=($(compgen -W "$(vmbeam help 2>/dev/null | sed -n 's/^  vmbeam \([a-z]*\).*/\1/p') help" -- "$cur"))
		return
	fi
	case $prev in
	--kernel | --initrd | --disk | --out | --tls | --config) COMPREPLY=($(compgen -f -- "$cur")) && return ;;
	--to) COMPREPLY=($(compgen -W "fresh host tls:// $names" -- "$cur")) && return ;;
	--in) COMPREPLY=($(compgen -W "$names" -- "$cur")) && return ;;
	--mode) COMPREPLY=($(compgen -W "auto zero-copy pre-copy post-copy" -- "$cur")) && return ;;
	--method) COMPREPLY=($(compgen -W "auto beam warm" -- "$cur")) && return ;;
	hypervisor) COMPREPLY=($(compgen -W "start stop list" -- "$cur")) && return ;;
	esac
	if [[ $cur == -* ]]; then
		COMPREPLY=($(compgen -W "$(vmbeam help 2>/dev/null | awk -v c="${COMP_WORDS[1]}" '/^  vmbeam / { on = $2 == c } on' | grep -o -- '--[a-z-]*' | sort -u)" -- "$cur"))
	else
		COMPREPLY=($(compgen -W "$names" -- "$cur"))
	fi
}
_vmbeamd() {
	case ${COMP_WORDS[COMP_CWORD - 1]} in
	--config) COMPREPLY=($(compgen -f -- "${COMP_WORDS[COMP_CWORD]}")) ;;
	*) COMPREPLY=($(compgen -W "--config --check --shutdown --help" -- "${COMP_WORDS[COMP_CWORD]}")) ;;
	esac
}
complete -F _vmbeam vmbeam
complete -F _vmbeamd vmbeamd
