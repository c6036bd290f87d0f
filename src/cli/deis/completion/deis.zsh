#compdef deis
# Completion of deis for zsh, by `deis completion zsh`.
_deis() {
    local -a lines proposals
    local line
    lines=("${(@f)$(deis __complete -- "${(@)words[1,CURRENT]}" 2>/dev/null)}")
    if [[ $lines[1] == :files ]]; then
        _files
        return
    fi
    for line in $lines; do
        proposals+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
    done
    _describe deis proposals
}
if [[ $funcstack[1] == _deis ]]; then
    _deis "$@"
else
    compdef _deis deis
fi
