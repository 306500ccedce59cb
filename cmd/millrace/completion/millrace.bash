# Completion of millrace(1) for bash: the program itself knows what fits, and gives only
# words that need no quotes. Bash ends words at colons, which names have: what it has cut
# is put together again, and of what fits it gets the part after the last colon.
_millrace() {
	local value word i before= words=()
	for ((i = 0; i <= COMP_CWORD; i++)); do
		word=${COMP_WORDS[i]}
		if ((i > 1)) && [[ $word == :* || ${words[${#words[@]}-1]} == *: ]]; then
			words[${#words[@]}-1]+=$word
		else
			words+=("$word")
		fi
	done
	local last=$((${#words[@]} - 1))
	local cur=${words[last]}
	case $cur in
	[\"\']*) cur=${cur:1} ;;
	*:*) before=${cur%"${cur##*:}"} cur=${cur//\\/} ;;
	*) cur=${cur//\\/} ;;
	esac
	COMPREPLY=()
	while IFS=$'\t' read -r value _; do
		COMPREPLY+=("${value#"$before"}")
	done < <("${COMP_WORDS[0]}" __complete -- "${words[@]:1:last-1}" "$cur" 2>/dev/null)
}
complete -o default -F _millrace millrace
